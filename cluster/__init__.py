"""Archives and servers that need more than one machine, by Ray, which nothing else imports."""
