"""Sound in files, pipes and at URLs: headers, decoding of every format, resampling, and what is wrong with a file."""
