"""Features in files, in the formats that others read: written a part at a time, described and indexed, read back."""
