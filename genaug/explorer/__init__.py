"""The browser page of `genaug explore`: see a generator's images, change them, and copy the code that makes them."""
