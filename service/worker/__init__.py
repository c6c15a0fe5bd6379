"""The warm worker: claims runs and executes them, through Prefect while Prefect answers.

`worker` claims, `executor` brings one run to its end, `breaker` knows whether Prefect answers, `watch` reads what
operators set there, `process` puts the parts together. `warm` is all of it as a Prefect worker that also executes
scheduled runs; `bounded` is a worker for its own runs alone. `service/mirror` shows the runs in Prefect.
"""
