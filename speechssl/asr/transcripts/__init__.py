"""What was said when: tokens and words with their times, and the formats that other tools read them from."""
