"""The paper: language-specific experts, routing, the three losses, and experts on disk.

In the order in which to read them:

    experts     modules added to Whisper's feed-forward network: experts and gates
    routing     the CLSR block, which sends each position to an expert or to the shared block
    blocks      where experts are in a Whisper: its layers, their CLSR blocks, gates, parameters
    attach      experts in a Whisper: attach, detach
    languages   choose the language, that is, the experts
    losses      cross-entropy, distillation, gate budget, and their sum
    storage     experts on disk
    packing     the smaller forms in which experts are stored
    loading     stored experts into a model, after checking that they fit
    released    the checkpoints that the authors published

Needs torch, transformers and safetensors alone.
"""
