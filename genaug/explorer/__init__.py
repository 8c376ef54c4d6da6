"""The page in the browser: look at what a generator makes, change it, and copy the code that makes it."""
