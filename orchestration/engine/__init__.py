"""How a run is executed. It knows no Prefect, no HTTP and no stage by name: node kinds are handed in.

From the inside out: `waits` is what a run waits for, `run` is a run in progress, `plan` what it executes, `attempt` one
try at one node, `perform` a node from its decision to its end, `lease` who may execute a run, `execution` the way from
a lease to the run's end.
"""
