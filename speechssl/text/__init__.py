"""Texts as data: words and scripts, the policy that texts go through, letters, phones and pieces as tokens."""
