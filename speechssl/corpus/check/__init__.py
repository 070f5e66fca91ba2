"""Checks a corpus: decodes the audio that manifests list and reports faults. Changes and deletes nothing."""
