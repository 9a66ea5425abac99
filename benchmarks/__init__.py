"""Speed, memory and accuracy, each measured beside what it competes with; README.md lists the commands."""
