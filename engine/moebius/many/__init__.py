"""Many pictures: what is to be done, one picture's way through a worker, and the workers: here, or on many machines."""
