"""Policies: who is notified, how and when. Pure decisions: no store, no HTTP, no Prefect.

`model` is what a policy says, `parse` makes one of a text or says all that is wrong with it, `routing` decides for an
alert and a moment, `matchers` and `windows` are Alertmanager's conditions, `inhibition` what explains what.
"""
