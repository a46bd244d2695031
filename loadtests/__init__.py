"""Load: locust users that verify while they load."""
