"""`make bench`: the same preference work done by our layouts and by other trainers, timed in turns."""
