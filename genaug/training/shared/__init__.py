"""Shared parts of the trainers: resumable runs, processes, sample streams, batches."""
