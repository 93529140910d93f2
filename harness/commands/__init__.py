"""What the command line offers beside training: a file for each command, printing apart from work.

A command returns values or text and prints nothing, or takes a console and only prints; cli.py
joins the two. Nothing here is imported before its command is asked for.
"""
