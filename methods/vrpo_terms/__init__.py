"""What VRPO is made of: the forces of rewards, the weights of alignment, and what is logged of both."""
