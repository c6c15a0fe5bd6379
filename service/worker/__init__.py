"""The warm worker: takes runs from the inbox and carries them, through Prefect while Prefect answers.

`worker` claims, `carry` brings one run to its end, `mirror` tells Prefect of it, `breaker` knows whether
Prefect answers, `watch` looks at what operators set there, `process` puts the parts together, and `warm` is
all of it as a Prefect worker that takes scheduled runs as well.
"""
