"""Run folders: contents, timeline, explain, diff, verify, export, push."""
