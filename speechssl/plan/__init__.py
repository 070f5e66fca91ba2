"""Planning of pretraining runs: model sizes, memory, throughput, and the results of published runs."""
