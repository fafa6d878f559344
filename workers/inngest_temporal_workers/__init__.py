"""The Temporal side: the run workflow, entity workflows, activities, worker processes."""
