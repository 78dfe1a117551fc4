"""What a run on a cluster needs, tried one by one."""
