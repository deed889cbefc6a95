"""The job as a Faust agent."""
