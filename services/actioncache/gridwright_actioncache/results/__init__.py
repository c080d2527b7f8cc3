"""What keeps the results of actions, and what checks that they are still of use."""
