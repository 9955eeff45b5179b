"""The paper: language-specific experts, routing, the three losses, and experts on disk.

In the order in which to read them:

    experts      modules added to Whisper's feed-forward network: experts and gates
    routing      the choice of experts, and the CLSR block, which sends each position to an expert
                 or to the shared block
    blocks       where experts are in a Whisper: its layers, their CLSR blocks, gates, parameters
    model        what a model with experts does differently: how a choice travels, and saving
    attach       experts in a Whisper: attach, detach
    languages    choose the language, that is, the experts
    losses       cross-entropy, distillation, gate budget, and their sum
    fingerprint  which Whisper experts belong to
    packing      the smaller forms in which experts are stored
    storage      experts on disk
    card         the text of a model card
    sharing      experts on the hub
    loading      stored experts into a model, after checking that they fit
    released     the checkpoints that the authors published

Needs torch, transformers and safetensors alone.
"""
