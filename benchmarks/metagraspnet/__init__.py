"""The MetaGraspNet network of Mao et al.: its backbone gated, trained with the seven losses, and pruned."""
