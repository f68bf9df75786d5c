"""Which cell of a sweep runs next and on what: the queue of cells, the scheduler, and what a cell needs."""
