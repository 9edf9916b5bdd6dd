"""Ray actors and the code that places them; `build.py` starts what a run needs."""
