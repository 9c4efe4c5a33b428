"""The page: its files (JavaScript, no build step), the server that shows it, and static sites."""
