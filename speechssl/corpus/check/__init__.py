"""The manifest doctor: decodes what manifests list and says what is wrong with it. Changes and deletes nothing."""
