"""The life of a run and its record, whatever trains it: Lightning, or TRL in `basereward.rl`."""
