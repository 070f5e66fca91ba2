"""Work on manifests: divide, join, choose, count, draw a part, and trade with other toolkits. Decodes no audio."""
