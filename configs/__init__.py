"""Configuration files a person edits: settings, policies, the sample catalogue."""
