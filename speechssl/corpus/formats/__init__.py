"""Lists of utterances in the formats of other toolkits, read and written."""
