"""The networks and the maths: knows no backend, no file, no picture."""
