"""What a run costs before it is paid for: sizes, memory, throughput, and what published runs reached."""
