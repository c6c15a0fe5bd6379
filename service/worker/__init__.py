"""The warm worker: takes runs from the inbox and carries them, through Prefect while Prefect answers.

`worker` claims, `carry` brings one run to its end, `breaker` knows whether Prefect answers, `watch` reads what
operators set there, `process` puts the parts together, and `warm` is all of it as a Prefect worker that takes
scheduled runs as well. `service/mirror` shows the runs in Prefect.
"""
