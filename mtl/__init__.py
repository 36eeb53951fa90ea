"""Multi-task learning toolkit for text: one shared encoder, one head per task."""
