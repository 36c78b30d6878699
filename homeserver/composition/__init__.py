"""What puts the server together: each module makes one part of it out of the domains, and knows their constructors."""
