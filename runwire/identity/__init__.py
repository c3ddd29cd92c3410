"""Who calls, and what they may: principals, the tokens and certificates that prove them, and the rule of every RPC.

Handlers see a Principal (`principal.caller()`) and never a token. docs/security.md says how it is set up.
"""
