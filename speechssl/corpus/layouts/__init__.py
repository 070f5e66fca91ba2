"""Lists published data of benchmarks where they lie: manifests, and the labels that are no column of one."""
