"""How good something is: word and character errors with intervals, hidden units against phones."""
