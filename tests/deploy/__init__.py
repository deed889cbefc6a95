"""Tests of deploy/: rules, routes and their runbooks."""
