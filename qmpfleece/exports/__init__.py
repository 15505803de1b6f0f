"""Block exports: what makes a node reachable from outside."""
