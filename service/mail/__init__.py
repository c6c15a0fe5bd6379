"""Mails of machines become pushes."""
