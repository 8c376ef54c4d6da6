"""What the trainers share: resumable runs, processes, streams of samples, batches."""
