"""`chat`: a conversation at the terminal.

conversation.py   messages, and the cache that is kept from turn to turn
commands.py       what lines that begin with a slash do
terminal.py       reading lines, with editing and history where there is a terminal; Ctrl-C
command.py        the command
"""
