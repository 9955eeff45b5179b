"""Plain Whisper: models by name, the short window, logits, tokens.

tokens        language codes and token ids
loading       models and processors by name
checkpoint    checkpoint folders: complete, undamaged, loaded whole
hub           checkpoints on the hub
mirror        whisper-base where the hub cannot be reached
conversion    CTranslate2's Whisper to transformers' Whisper
tiny          a random Whisper for tests
window        an encoder over fewer frames than 30 s
logits        teacher-forced logits, logits at chosen positions
shapes        sizes, and arithmetic on them
per_call      values that hold for a call instead of for the model
unwrap        the Whisper inside a PEFT wrapper
"""
