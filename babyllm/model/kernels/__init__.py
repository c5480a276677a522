"""Operations with hand-written backward passes: the norm and SwiGLU."""
