# Importing the module registers torch.ops.resnet_cuda; it has no names of its own.
