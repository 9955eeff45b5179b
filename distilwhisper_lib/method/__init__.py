"""The paper: experts, routing, losses, and experts on disk. Needs torch, transformers and safetensors alone."""
