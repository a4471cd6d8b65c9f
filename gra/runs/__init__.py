"""Run folders: contents, timeline, explain, diff, verify, push."""
