"""One module per level, each with `workloads(device, plan)`."""
